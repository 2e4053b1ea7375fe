class CreateProducts < ActiveRecord::Migration[6.1]
  def change
    create_table :categories do |t|
      t.string :name, null: false
      t.integer :products_count, null: false, default: 0
      t.timestamps
    end

    create_table :products do |t|
      t.references :category, foreign_key: true
      t.string :name, null: false
      t.text :description
      t.decimal :price, precision: 10, scale: 2, null: false, default: 0
      t.integer :status, null: false, default: 0
      t.integer :lock_version, null: false, default: 0
      t.timestamps
    end
  end
end
