class AddCategories < ActiveRecord::Migration[6.1]
  def change
    create_table :categories do |t|
      t.string :name, limit: 255, null: false
      t.integer :products_count, null: false, default: 0
      t.timestamps
    end

    change_table :products do |t|
      t.references :category, foreign_key: true
      t.integer :status, null: false, default: 0
      t.integer :lock_version, null: false, default: 0
    end
  end
end
