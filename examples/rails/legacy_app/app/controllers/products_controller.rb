class ProductsController < ApplicationController
  before_action :set_product, only: %i[edit update destroy]

  def index
    @products = Product.includes(:category).order(:id)
  end

  def new
    @product = Product.new
  end

  def edit
  end

  def create
    @product = Product.new(product_params)
    if @product.save
      redirect_to products_path, notice: "#{@product.name} was added."
    else
      render :new, status: :unprocessable_entity
    end
  end

  def update
    if @product.update(product_params)
      redirect_to products_path, notice: "#{@product.name} was saved."
    else
      render :edit, status: :unprocessable_entity
    end
  rescue ActiveRecord::StaleObjectError
    redirect_to edit_product_path(@product),
                alert: "#{@product.name} was changed meanwhile, here or in the other application. This is how it is now."
  end

  def destroy
    @product.destroy
    redirect_to products_path, notice: "#{@product.name} was deleted."
  end

  private

  def set_product
    @product = Product.find(params[:id])
  rescue ActiveRecord::RecordNotFound
    redirect_to products_path, alert: "That product is gone."
  end

  def product_params
    params.require(:product).permit(:name, :description, :price, :status, :category_id, :lock_version,
                                    :warehouse_code)
  end
end
